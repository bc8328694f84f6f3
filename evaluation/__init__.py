"""From adapters to episodes, statistics and the report."""
