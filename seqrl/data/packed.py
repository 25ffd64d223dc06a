"""Files that are packed: their names and their first bytes tell."""

PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

SUFFIXES = (".gz", ".zip", ".bz2", ".xz", ".zst")


def way_to_text(first: bytes) -> str:
    """The way out for what begins with these bytes and is no text in UTF-8, for messages."""
    kind = next((kind for magic, kind in PACKED.items() if first.startswith(magic)), None)
    return "write it again as UTF-8" if kind is None else f"it is packed by {kind}, unpack it first"
