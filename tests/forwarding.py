"""Forward TCP connections: ``python forwarding.py HERE THERE PORT`` listens on HERE:PORT and goes on to THERE:PORT.

Takes two addresses and a port; prints ``listens`` once it does, and goes on until it is ended.
"""

import asyncio
import contextlib
import sys

CHUNK_BYTES = 1 << 16


async def forward(here: str, there: str, port: int) -> None:
    """Listen and forward until the process ends."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            other_reader, other_writer = await asyncio.open_connection(there, port)
            await asyncio.gather(copy(reader, other_writer), copy(other_reader, writer))
            other_writer.close()
        writer.close()

    server = await asyncio.start_server(connected, here, port)
    print("listens", flush=True)
    await server.serve_forever()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until one side ends or breaks."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()


if __name__ == "__main__":
    asyncio.run(forward(sys.argv[1], sys.argv[2], int(sys.argv[3])))
