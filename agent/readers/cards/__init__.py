"""From credential bits to a card: formats, decoding, badge ids, cardholders."""
