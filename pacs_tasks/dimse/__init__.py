"""The DICOM network services, over one blocking socket per association. Only this room opens associations.

::

    c_echo  c_store  find  retrieve  commitment  scp    services (PS3.4, PS3.7)
                  cancellation  status                  parts that services share
                      upper_layer                       associations and messages (PS3.8, PS3.7)
                        sources                         members of archives, objects at URLs
                         files                          files, without decoding their values (PS3.10)

No thread stands between a caller and its socket: the caller itself receives the response.

Statuses, SOP classes and the reasons of rejections come from pynetdicom, dictionaries and character sets from pydicom.
The codec and the sockets are our own.
"""
