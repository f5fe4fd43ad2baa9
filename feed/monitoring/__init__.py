"""What is watched: `quality` holds the figures of a full ranking."""
