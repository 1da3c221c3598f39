"""DICOM's network services, spoken over one blocking socket per association. The only room that opens associations.

::

    c_echo  c_store  c_find  c_move  c_get  n_action      storage_scp      one file per service
       └───────┴────────┴───────┴──────┴───────┤               │
                  association            n_event_report        │           who proposes, who accepts
                       └───────────────────────┬───────────────┘
                  stream  (DIMSE messages, PS3.7)
                  acse    (A-ASSOCIATE, PS3.8)
                  wire    (PDUs on a socket, PS3.8)

Beside them: ``command`` (command sets), ``commitment`` (what storage commitment asks and reports), ``contexts``,
``status``, ``part10`` and ``elements`` (reading a file without decoding its data set), ``storage`` (writing one as it
came). Of a query: ``query_keys`` (which attributes), ``identifier`` (keys on their way out), ``match`` (matches on
their way in), ``found`` (all of them), ``splitting`` and ``spans`` (halves of dates).

No thread stands between a caller and its socket: a response is read by the one who waits for it.
"""
