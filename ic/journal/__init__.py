"""The journal: every action is an event, kept in the Incus project's own metadata."""
