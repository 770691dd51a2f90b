"""The mount: repos, versions and instances as files, through FUSE. It names no datatype.

``mount.serve_mount`` is the service; without pyfuse3 only ``errors`` and ``names`` can be imported.
"""
