"""Providers by description: a TOML file instead of a package. docs/guide/describing-a-provider.md."""
