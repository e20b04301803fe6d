"""Measures parameters, GFLOPs, latency, throughput, memory and AP, each in its own process.

`README.md` in this folder describes the protocol. The way of a measurement: `suite` lists the
cases, `runner` goes through them, `worker` runs each in a process that calls `measure`, and `store`
appends the result to a file.
"""
