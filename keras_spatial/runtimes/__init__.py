"""Runtimes: where the shards of a tensor live, and how they reach one another.

`base.Runtime` is the interface; `placement` (devices of one process), `collective` (many processes), `tpu` and
`rehearsal` (planning) are its kinds. Nothing outside this folder asks which one it has.
"""
