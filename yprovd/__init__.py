"""Everything a number passes through, from the sensor to the archive. The rooms, from the ground up:

    model errors clock processes   what a number is, how time is told, who is a process
    wire                           the frame: the one unit that is sent and stored
    spool config                   files of frames; the resolved configuration
    sensors                        one file per source; a sensor only reads
    sampler transport files        ticks to samples; the only ZeroMQ sockets; facts about declared files
    node collector                 the two daemons
    stitch                         spool in, archive out; the only room with numpy, zarr and prov

Importing this package imports nothing.
"""

__version__ = "0.1.0"
