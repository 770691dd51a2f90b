"""The HTTP face: DVID's REST API and our own, on aiohttp with a fast lane for hot requests.

It translates between requests and the operations of ``dvidfs.types`` and holds no rule of its own.
"""
