"""What GET /metrics tells, and how."""
