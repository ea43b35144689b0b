"""Where changes come from: each source is an async iterator of deliveries that knows nothing of URLs or CDNs."""
