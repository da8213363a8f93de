"""One module per verb family: parser and body together."""
