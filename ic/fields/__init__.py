"""One module per family of service keys: type, short form to long form, and its Incus mapping. Pure."""
