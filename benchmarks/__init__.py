"""What is measured: parameters, GFLOPs, latency, memory and AP, each in a process of its own.

`README.md` beside this file is the protocol.
"""
