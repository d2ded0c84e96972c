"""Resident memory of each service at rest."""

import asyncio
import os
import sys

import httpx
import psutil

from bench.figures import AUTH_KEY, Figure, Place

MUST_MB = 150
SECRET = "whsec_Zm9yLW1lYXN1cmVtZW50cy1vbmx5LWZvci1tZWFzdXJlbWVudHM="
SERVICES = ("orders", "payments", "fulfillment", "returns", "notifications", "support_view")


async def _resident(where: Place, package: str, port: int) -> float:
    environment = os.environ | {
        "OMS_DATABASE_URL": await where.database(package),
        "OMS_KAFKA": where.kafka,
        "OMS_AUTH_KEY": AUTH_KEY,
        "OMS_PROCESSOR_URL": "http://127.0.0.1:9/processor",
        "OMS_PROCESSOR_KEY": "none",
        "OMS_PROCESSOR_WEBHOOK_SECRET": SECRET,
        "OMS_CARRIER_WEBHOOK_SECRET": SECRET,
        "OMS_MAIL_WEBHOOK_SECRET": SECRET,
        "OMS_SMTP_URL": "smtp://127.0.0.1:9",
        "OMS_LOG_LEVEL": "error",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "uvicorn",
        f"{package}.app:app",
        "--port",
        str(port),
        "--no-access-log",
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(60):
            while True:
                try:
                    if (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        break
                except httpx.TransportError:
                    pass  # not listening yet
                await asyncio.sleep(0.2)
        return float(psutil.Process(process.pid).memory_info().rss) / 1e6
    finally:
        process.terminate()
        await process.wait()


async def measure(where: Place) -> list[Figure]:
    """Memory: each service started by itself, ready and idle"""
    figures = []
    for n, package in enumerate(SERVICES):
        resident = await _resident(where, package, 18_000 + n)
        figures.append(
            Figure(f"resident memory of {package}", resident, None, "MB", f"under {MUST_MB} MB", resident < MUST_MB)
        )
    return figures
