"""A local Snowpipe Streaming server for the demo and the tests: a stranger to the agent's own client.

It shares no code with agent.snowpipe, so that a mistake on one side cannot cancel itself out on the
other. How it is steered by tests is described in agent.emulator.faults, what it reports in
agent.emulator.control.
"""
