"""A web page and an HTTP API over a model. Needs the extra: `pip install 'mrcnn[serve]'`.

A request goes through these files:

    app.py           routes, and what every request must pass: token, host, origin
    uploads.py       the body, within limits, becomes a photo
    service.py       admission, decoding, the time limit; counts everything for /metrics
    batch_runner.py  one thread runs the network, for photos of several requests at once
    answers.py       detections become JSON or PNG
    glass_box.py     the steps of the network, for the page

Example:

    from mrcnn import MaskRCNN
    from mrcnn.serve import run

    run(MaskRCNN(mode="inference", weights="shapes"), port=8000)
"""

from mrcnn.serve.limits import Limits
from mrcnn.serve.server import create_app, run

__all__ = ["Limits", "create_app", "run"]
