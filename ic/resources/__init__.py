"""One module per Incus kind: desired shape, live shape, diff, order and steps. Pure."""
