"""The command ``dvidfs``: one module per group of commands, each adding its parsers and running its commands.

Nothing here holds a rule of the store: a command resolves what was named (:mod:`dvidfs.cli.names`), runs one operation
of the engine or of a datatype, and prints. Invariant: importing any module of this package loads nothing but argparse
and the standard library, so that ``dvidfs --help`` costs nothing; what is heavy is imported by the command that runs.
"""
