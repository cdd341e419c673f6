"""What comes in: traces, their formats, synthesis, prefix hits, storage layout, model geometries.

Pure data and arithmetic. Nothing here opens a socket, reads a clock or imports another part.
"""
