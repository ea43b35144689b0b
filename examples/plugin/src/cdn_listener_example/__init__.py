"""An example plugin of cdn-listener: a log of changes as source, an HTTP cache as target."""
