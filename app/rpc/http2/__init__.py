"""The method table over HTTP/2 on an asyncio loop, made for cheap unary calls."""
