"""The `ferry` command: what goes on before and beside serving."""
