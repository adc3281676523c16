"""What a figure is compared with: the fastest thing that could stand in the same place, doing less."""
