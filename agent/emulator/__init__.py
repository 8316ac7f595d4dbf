"""A local Snowpipe Streaming server for the demo and the tests, independent of the agent's client.

It shares no code with agent.snowpipe, so that the same error cannot be on both sides and go unnoticed.
Fault injection is described in agent.emulator.faults, the reported state in agent.emulator.control.
"""
