"""Resources and latency without a vendor's tool."""
