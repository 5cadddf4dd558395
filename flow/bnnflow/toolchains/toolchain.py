"""What a toolchain is, the table of toolchains, and the choice of one for a project."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bnnflow.backends.backend import BACKENDS
from bnnflow.backends.project import Project
from bnnflow.errors import InputError, choice
from bnnflow.facts.facts import Facts
from bnnflow.toolchains.process import Program, Say

__all__ = ["TOOLCHAINS", "VIA", "Option", "Toolchain", "chosen", "programs", "register", "simulators", "synthesizers"]


@dataclass(frozen=True)
class Option:
    """An option of a synthesis: a keyword of `bnnflow.synthesize` and, with that default and help, a flag of
    `bnnflow synth`.
    """

    name: str
    default: str | float | bool
    help: str


VIA = Option("via", "", 'prefix of the vendor\'s commands: "ssh host", "docker run -v /data:/data IMAGE"; the project '
                        "must have the same path there")

# From a project, a folder with test vectors, a prefix (`via`) and who hears the tool's lines: the file with the outputs
# of the test bench, and True where the bench reports errors. Raises ToolError where the tool is missing or fails.
Simulate = Callable[[Project, Path, str, Say | None], tuple[Path, bool]]


@dataclass(frozen=True)
class Toolchain:
    """An external tool that simulates or synthesises projects: all that verbs, `doctor`, help and messages know of it.

    `program` is started, and gives the name; `helpers` are programs that it needs besides. `language` is what the
    projects are written in that it takes. `versions` are those that this package has really been run with.

    `synthesize` takes a project, and as keywords the line-by-line listener `say` and whichever of `options` are given;
    it returns what the tool says of the project, and keeps it (`bnnflow.facts.kept`). None where the toolchain cannot.
    `vendor`: it is a vendor's tool, which may stand behind a prefix and takes seconds to say its version.
    """

    program: Program
    language: str
    versions: tuple[str, ...] = ()
    simulate: Simulate | None = None
    synthesize: Callable[..., Facts] | None = None
    options: tuple[Option, ...] = ()
    helpers: tuple[Program, ...] = ()
    vendor: bool = False

    @property
    def name(self) -> str:
        """What it is called by `tool=` and `--tool`."""
        return self.program.name


TOOLCHAINS: dict[str, Toolchain] = {}


def register(toolchain: Toolchain) -> Toolchain:
    """Add a toolchain to the table; raises InputError where another one has its name."""
    if TOOLCHAINS.setdefault(toolchain.name, toolchain) is not toolchain:
        raise InputError(f"a toolchain {toolchain.name!r} is registered already")
    return toolchain


def simulators() -> dict[str, Toolchain]:
    """The toolchains that simulate, by name."""
    return {name: toolchain for name, toolchain in TOOLCHAINS.items() if toolchain.simulate}


def synthesizers() -> dict[str, Toolchain]:
    """The toolchains that synthesise, by name."""
    return {name: toolchain for name, toolchain in TOOLCHAINS.items() if toolchain.synthesize}


def programs() -> list[Program]:
    """Every program that a toolchain starts, once; those that only help others last."""
    toolchains = TOOLCHAINS.values()
    found = [*(t.program for t in toolchains), *(helper for t in toolchains for helper in t.helpers)]
    return list({program.name: program for program in found}.values())


def chosen(project: Project, name: str, among: Mapping[str, Toolchain]) -> Toolchain:
    """The toolchain of that name; raises InputError where it is not among these, or does not take such a project."""
    if name not in among:
        raise InputError(f"tool {name!r}: use one of {', '.join(among)}")
    toolchain, language = among[name], project.target.language
    if toolchain.language != language:
        backends = [b.name for b in BACKENDS.values() if b.language == toolchain.language]
        tools = [t.name for t in among.values() if t.language == language]
        remedies = [f"build it with backend {choice(backends)}"] if backends else []
        remedies += [f"use tool {choice(tools)}" if tools else f"register a toolchain of {language}"]
        raise InputError(f"{name}: {project.path} is a {project.backend} project; {', or '.join(remedies)}")
    return toolchain
