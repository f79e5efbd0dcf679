"""What a protected service runs beside its decisions, whatever protocol it speaks."""
