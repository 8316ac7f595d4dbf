"""OSDP, the control panel's side: two-way RS-485 readers with an encrypted channel (IEC 60839-11-5).

Theory of operation

The control panel (this agent) asks, one reader at a time, and each command has one reply. All modules are
pure: no port, no clock; `now` is in seconds of one monotonic clock.

  frame.py           bytes <-> Frame: start, length, check characters
  secure_channel.py  handshake, session keys, the chain of MACs
  reports.py         the data of replies as events and values
  outputs.py         the data of commands: LED, buzzer, settings
  lights.py          which LED and buzzer commands are due
  link.py            one reader: sequence numbers, repeats, start-up, session
  line.py            whose turn it is on a line of several readers
  reader.py          the WireProtocol of one reader

Invariants
- A command is repeated byte for byte, with its number and MAC, until it is answered: only so can a reader
  repeat a reply that was lost, and with it a card.
- The chain of MACs advances with an accepted reply only.
- With a key, everything but the handshake is inside a session; a reply outside of it is never a card. No
  error leads to a session with the default key or to clear text.
- Whatever is wrong has one remedy: begin again with number 0 and, with a key, a new handshake. Several in a
  row are a second apart.
"""
