"""What stands above the detectors: pictures, measurements, the demo."""
