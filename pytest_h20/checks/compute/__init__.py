"""What each GPU, its links and its memory can do, measured from the engine's own image before the engine starts; pure judgement here."""
