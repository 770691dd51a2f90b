"""Datatypes: each described once, as operations and tables that HTTP, the mount, help and docs are read from.

Nothing here knows the web, FUSE or an event loop: operations are plain functions over a view of one instance at one
version (:mod:`dvidfs.engine.versions`).
"""
