"""The answer to pipe-info, which the vendor's SDK asks for and the documentation does not describe."""

from __future__ import annotations

import base64


def pipe_info(now_ms: int) -> dict[str, object]:
    """What the vendor's SDK needs before it will send; its storage is never used for small batches."""
    location = {
        "expiry_time_ms": now_ms + 24 * 3600 * 1000,
        "location_type": "S3",
        "location": "emulator/",
        "use_s3_regional_url": False,
        "region": "us-west-2",
        "bucket_name": "emulator",
        "path_prefix": "",
        "creds": {"AWS_KEY_ID": "none", "AWS_SECRET_KEY": "none", "AWS_TOKEN": "none"},
        "parameters": {
            "max_client_lag_seconds": 1,
            "rowset_flush_threshold_kb": 1024,
            "max_buffered_kb_for_rowset_mode": 65535,
            "rowset_threshold_lookback_seconds": 10,
            "rowset_threshold_ewma_weight": 50,
            "target_file_size_compressed_mb": 16,
            "cpu_throttle_high_watermark_percent": 95,
            "cpu_throttle_low_watermark_percent": 85,
            "mem_throttle_high_watermark_percent": 95,
            "mem_throttle_low_watermark_percent": 85,
        },
    }
    return {
        "rowset_stage_location": location,
        "durable_stage_location": location,
        "encryption_info": {
            "pipe_key": base64.b64encode(bytes(32)).decode(),
            "pipe_key_id": 1,
            "diversifier": "emulator",
        },
    }
