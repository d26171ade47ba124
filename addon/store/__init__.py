"""Blobs on disk, named by their digests.

The life of a blob: `Store.ingest` makes an ingest file outside of ``blobs/``; bytes are written to it in any order, and
hashed once they are in a row; `Ingest.verify` compares length and digest; `Ingest.commit` moves it to its name under
``blobs/``, from which moment `Store.open` finds it. Until then it is invisible to everybody but the readers that the
ingest itself hands out.

Everything here is synchronous, and may block on the disk: the event loop's side lives in ``transfer``.
"""
