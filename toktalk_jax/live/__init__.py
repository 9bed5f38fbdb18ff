"""Live: one model, many sessions, over WebSockets; `protocol` describes the wire."""
