"""The extension's version. Read as text by those who ship it: keep it one plain line."""

VERSION = "0.2.0"
