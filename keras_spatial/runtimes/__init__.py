"""Runtimes: where the shards of a tensor live, and how data move between them.

`base.Runtime` is the interface. Its implementations are `placement` (devices of one process), `collective` (several
processes), `streaming` (positions that share devices), `tpu`, and `rehearsal` (planning). Nothing outside this folder
asks which one it has.
"""
