"""cdn-listener: listens to storage and refreshes the CDN in front of it, within its quota, losing nothing."""

__version__ = "0.1.0"
