"""Choose presentation contexts for instances (PS3.8 section 9.3.2.2): exact pairs, at most 128 per association."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pydicom import uid
from pynetdicom import sop_class

from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer.negotiation import MAX_CONTEXTS, Context


def contexts_for(instances: Iterable[StoredInstance]) -> list[tuple[list[Context], list[StoredInstance]]]:
    """Split instances into batches for one association each.

    Each context has one exact (SOP class, transfer syntax) pair: of several syntaxes, the remote could choose one that
    the files do not have.

    Returns
    -------
    Batches of at most 128 contexts with their instances, in the order of the first instance of each pair. Instances of
    one pair stay together and in order.
    """
    by_pair: dict[tuple[str, str], list[StoredInstance]] = {}
    for instance in instances:
        by_pair.setdefault((instance.sop_class_uid, instance.transfer_syntax_uid), []).append(instance)
    pairs = list(by_pair)
    batches = []
    for start in range(0, len(pairs), MAX_CONTEXTS):
        chosen = pairs[start : start + MAX_CONTEXTS]
        contexts = [Context(sop_class_uid, (syntax,)) for sop_class_uid, syntax in chosen]
        batches.append((contexts, [instance for pair in chosen for instance in by_pair[pair]]))
    return batches


def contexts_to_receive(sop_class_uids: Collection[str]) -> list[Context]:
    """Give the contexts in which to receive instances by C-GET, with the SCP role (PS3.7 section D.3.3.4).

    For few classes there is one context per class and transfer syntax, so that the remote sends each instance in its
    own syntax. For many, the uncompressed syntaxes of a class share a context, and so do the rarest ones. Classes
    beyond the number of contexts are left out.

    Parameters
    ----------
    sop_class_uids
        If empty, the common storage classes.
    """
    classes = sorted(set(sop_class_uids)) or list(COMMON_STORAGE_CLASSES)
    # One context carries the C-GET itself.
    room = MAX_CONTEXTS - 1
    classes = classes[:room]
    groups = _syntax_groups(room // len(classes))
    return [Context(sop_class_uid, group, scp_role=True) for sop_class_uid in classes for group in groups]


def _syntax_groups(count: int) -> list[tuple[str, ...]]:
    """Split the transfer syntaxes into at most ``count`` groups, each of the most common ones in a group of its own."""
    apart: list[tuple[str, ...]] = [(syntax,) for syntax in (*_UNCOMPRESSED, *_COMPRESSED)]
    if count >= len(apart):
        return apart
    if count == 1:
        return [_UNCOMPRESSED]
    alone = count - 2
    groups = [_UNCOMPRESSED, *((syntax,) for syntax in _COMPRESSED[:alone])]
    return [*groups, _COMPRESSED[alone:]]


# In the order of preference: remotes often choose the first syntax of a shared context.
_UNCOMPRESSED: tuple[str, ...] = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
#: The most common ones first.
_COMPRESSED: tuple[str, ...] = (
    uid.JPEGLosslessSV1,
    uid.JPEG2000Lossless,
    uid.JPEGBaseline8Bit,
    uid.RLELossless,
    uid.JPEG2000,
    uid.JPEGLSLossless,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLSNearLossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
    uid.MPEG4HP41,
    uid.MPEG4HP41BD,
    uid.MPEG4HP422D,
    uid.MPEG4HP423D,
    uid.MPEG4HP42STEREO,
    uid.MPEG2MPML,
    uid.MPEG2MPHL,
    uid.HEVCMP51,
    uid.HEVCM10P51,
    # pydicom has no names for these yet.
    "1.2.840.10008.1.2.4.110",  # JPEG XL lossless
    "1.2.840.10008.1.2.4.112",  # JPEG XL
    "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
)

_COMMON = """
    ComputedRadiographyImageStorage DigitalXRayImageStorageForPresentation DigitalXRayImageStorageForProcessing
    DigitalMammographyXRayImageStorageForPresentation DigitalMammographyXRayImageStorageForProcessing
    DigitalIntraOralXRayImageStorageForPresentation CTImageStorage EnhancedCTImageStorage
    LegacyConvertedEnhancedCTImageStorage UltrasoundMultiFrameImageStorage MRImageStorage EnhancedMRImageStorage
    MRSpectroscopyStorage EnhancedMRColorImageStorage LegacyConvertedEnhancedMRImageStorage UltrasoundImageStorage
    EnhancedUSVolumeStorage SecondaryCaptureImageStorage MultiFrameSingleBitSecondaryCaptureImageStorage
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    MultiFrameTrueColorSecondaryCaptureImageStorage TwelveLeadECGWaveformStorage GeneralECGWaveformStorage
    AmbulatoryECGWaveformStorage HemodynamicWaveformStorage CardiacElectrophysiologyWaveformStorage
    BasicVoiceAudioWaveformStorage GrayscaleSoftcopyPresentationStateStorage ColorSoftcopyPresentationStateStorage
    BlendingSoftcopyPresentationStateStorage XRayAngiographicImageStorage EnhancedXAImageStorage
    XRayRadiofluoroscopicImageStorage EnhancedXRFImageStorage XRay3DAngiographicImageStorage
    XRay3DCraniofacialImageStorage BreastTomosynthesisImageStorage
    IntravascularOpticalCoherenceTomographyImageStorageForPresentation
    IntravascularOpticalCoherenceTomographyImageStorageForProcessing NuclearMedicineImageStorage ParametricMapStorage
    RawDataStorage SpatialRegistrationStorage SpatialFiducialsStorage SegmentationStorage SurfaceSegmentationStorage
    VLEndoscopicImageStorage VideoEndoscopicImageStorage VLMicroscopicImageStorage VLPhotographicImageStorage
    VideoPhotographicImageStorage OphthalmicPhotography8BitImageStorage OphthalmicTomographyImageStorage
    VLWholeSlideMicroscopyImageStorage BasicTextSRStorage EnhancedSRStorage ComprehensiveSRStorage
    KeyObjectSelectionDocumentStorage XRayRadiationDoseSRStorage MammographyCADSRStorage EncapsulatedPDFStorage
    PositronEmissionTomographyImageStorage
    """
#: The classes that most PACS hold, few enough for two contexts each.
COMMON_STORAGE_CLASSES: tuple[str, ...] = tuple(getattr(sop_class, keyword) for keyword in _COMMON.split())
