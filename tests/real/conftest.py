from __future__ import annotations

from agents_at_work import bench as bench
