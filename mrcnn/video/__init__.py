"""Videos: reading and writing frames, tracking objects, drawing detections.

frames      reads videos, folders of frames and cameras; writes files that browsers play
tracking    numbers for objects that stay the same from frame to frame
annotate    draws the detections of a model on a video
"""

from __future__ import annotations

from .annotate import annotate_video, draw_frame
from .frames import VideoFile, read_video
from .tracking import Tracker

__all__ = ["Tracker", "VideoFile", "annotate_video", "draw_frame", "read_video"]
