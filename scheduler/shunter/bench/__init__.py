"""Load generator: replays a trace against any OpenAI endpoint and reports what clients see."""
