"""CDN accounts behind one contract, :class:`listener.contracts.Target`; a package each."""
