"""Choose presentation contexts for instances (PS3.8 section 9.3.2.2): exact pairs, at most 128 per association."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from pydicom import uid
from pynetdicom import sop_class

from pacs_tasks.dimse.files.data_set import LOSSLESS, UNCOMPRESSED, convertible
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer.negotiation import MAX_CONTEXTS, Context
from pacs_tasks.request import Transcode


def contexts_for(
    instances: Iterable[StoredInstance], transcode: Transcode = Transcode.UNCOMPRESSED
) -> list[tuple[list[Context], list[StoredInstance]]]:
    """Split instances into batches for one association each.

    Each pair of SOP class and transfer syntax has a context of its own: of several syntaxes, the remote could choose
    one that the files do not have. A further context of each class offers the other uncompressed syntaxes as far as
    there is room, unless all instances of the class are compressed with a loss (PS3.5 section 10.1), or nothing may be
    converted.

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
        contexts += _alternatives(chosen, transcode)[: MAX_CONTEXTS - len(contexts)]
        batches.append((contexts, [instance for pair in chosen for instance in by_pair[pair]]))
    return batches


def alternatives_for(
    instances: Collection[StoredInstance], transcode: Transcode
) -> list[tuple[list[Context], list[StoredInstance]]]:
    """Split instances whose own syntax was refused, and for whose others there was no room, as :func:`contexts_for`."""
    contexts = _alternatives([(each.sop_class_uid, each.transfer_syntax_uid) for each in instances], transcode)
    batches = []
    for start in range(0, len(contexts), MAX_CONTEXTS):
        chosen = contexts[start : start + MAX_CONTEXTS]
        classes = {cx.abstract_syntax for cx in chosen}
        batches.append((chosen, [each for each in instances if each.sop_class_uid in classes]))
    return batches


def _alternatives(pairs: Sequence[tuple[str, str]], transcode: Transcode) -> list[Context]:
    """Give a context of each class with the uncompressed syntaxes that its instances do not have."""
    own: dict[str, list[str]] = {}
    for sop_class_uid, syntax in pairs:
        own.setdefault(sop_class_uid, []).append(syntax)
    contexts = []
    for sop_class_uid, syntaxes in own.items():
        others = tuple(each for each in UNCOMPRESSED if each not in syntaxes)
        if others and any(_may_be_uncompressed(each, transcode) for each in syntaxes):
            contexts.append(Context(sop_class_uid, others))
    return contexts


def _may_be_uncompressed(syntax: str, transcode: Transcode) -> bool:
    """Whether an uncompressed syntax is offered for instances in this one.

    It is for those that are compressed without loss too, although they are decompressed only on request: then the
    remote's answer shows that this would help.
    """
    return transcode is not Transcode.NEVER and (syntax in LOSSLESS or convertible(syntax, transcode))


def contexts_to_receive(
    sop_class_uids: Collection[str], *, rare: bool = False, listed: Mapping[str, Collection[str]] | None = None
) -> list[Context]:
    """Give the contexts in which to receive instances by C-GET, with the SCP role (PS3.7 section D.3.3.4).

    For few classes there is one context per class and transfer syntax, so that the remote sends each instance in its
    own syntax. For many, the uncompressed syntaxes of a class share a context, and so do the rarest ones. Classes
    beyond the number of contexts are left out.

    Parameters
    ----------
    sop_class_uids
        If empty, the common storage classes.
    rare
        Also propose the syntaxes that hardly any instance has: some remotes choose any context that is accepted.
    listed
        By class, the syntaxes in which the remote says that it can send all instances of the class. Of such a class,
        the others are left out, except for the usual uncompressed ones.
    """
    classes = sorted(set(sop_class_uids)) or list(COMMON_STORAGE_CLASSES)
    classes = classes[:_MOST_CLASSES]
    count = _MOST_CLASSES // len(classes)
    usual = _syntax_groups(count, rare=rare)
    contexts = []
    for sop_class_uid in classes:
        groups = _listed_groups((listed or {}).get(sop_class_uid, ()), count) or usual
        contexts += [Context(sop_class_uid, group, scp_role=True) for group in groups]
    return contexts


def _listed_groups(syntaxes: Collection[str], count: int) -> list[tuple[str, ...]]:
    """Put each listed syntax in a group of its own, the uncompressed ones first; nothing if there is no room."""
    others: list[tuple[str, ...]] = [(syntax,) for syntax in sorted({*syntaxes} - {*_UNCOMPRESSED})]
    apart: list[tuple[str, ...]] = [*((syntax,) for syntax in _UNCOMPRESSED), *others]
    together = [_UNCOMPRESSED, *others]
    return next((groups for groups in (apart, together) if syntaxes and len(groups) <= count), [])


def _syntax_groups(count: int, *, rare: bool) -> list[tuple[str, ...]]:
    """Split the transfer syntaxes into at most ``count`` groups, each of the most common ones in a group of its own."""
    uncompressed = (*_UNCOMPRESSED, *(_RARE if rare else ()))
    compressed = (*_COMPRESSED, *(_RARE_COMPRESSED if rare else ()))
    apart: list[tuple[str, ...]] = [(syntax,) for syntax in (*uncompressed, *compressed)]
    if count >= len(apart):
        return apart
    if count == 1:
        return [uncompressed]
    alone = count - 2
    groups = [uncompressed, *((syntax,) for syntax in compressed[:alone])]
    return [*groups, compressed[alone:]]


# In the order of preference: remotes often choose the first syntax of a shared context.
_UNCOMPRESSED: tuple[str, ...] = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)
#: Hardly any instance has these.
_RARE: tuple[str, ...] = (uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian)
_RARE_COMPRESSED: tuple[str, ...] = ("1.2.840.10008.1.2.8.1",)  # Deflated Image Frame Compression
#: One context carries the C-GET itself.
_MOST_CLASSES = MAX_CONTEXTS - 1
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


def classes_of(modality: str) -> list[str]:
    """Give the classes that instances of a Modality, (0008,0060), usually have; none for an unknown one."""
    named = _OF_MODALITY.get(modality, "")
    return [str(getattr(sop_class, keyword)) for keyword in f"{named} {_OF_ALL}".split()] if named else []


_OF_ALL = "SecondaryCaptureImageStorage GrayscaleSoftcopyPresentationStateStorage"
#: SOP classes by Defined Terms of Modality (PS3.3 section C.7.3.1.1.1).
_OF_MODALITY: Mapping[str, str] = {
    "CR": "ComputedRadiographyImageStorage",
    "CT": "CTImageStorage EnhancedCTImageStorage LegacyConvertedEnhancedCTImageStorage",
    "DX": "DigitalXRayImageStorageForPresentation DigitalXRayImageStorageForProcessing",
    "MG": "DigitalMammographyXRayImageStorageForPresentation DigitalMammographyXRayImageStorageForProcessing "
    "BreastTomosynthesisImageStorage",
    "MR": "MRImageStorage EnhancedMRImageStorage MRSpectroscopyStorage EnhancedMRColorImageStorage "
    "LegacyConvertedEnhancedMRImageStorage",
    "NM": "NuclearMedicineImageStorage",
    "PT": "PositronEmissionTomographyImageStorage EnhancedPETImageStorage LegacyConvertedEnhancedPETImageStorage",
    "RF": "XRayRadiofluoroscopicImageStorage EnhancedXRFImageStorage",
    "RTDOSE": "RTDoseStorage",
    "RTIMAGE": "RTImageStorage",
    "RTPLAN": "RTPlanStorage RTIonPlanStorage",
    "RTSTRUCT": "RTStructureSetStorage",
    "SEG": "SegmentationStorage SurfaceSegmentationStorage",
    "SR": "BasicTextSRStorage EnhancedSRStorage ComprehensiveSRStorage Comprehensive3DSRStorage "
    "MammographyCADSRStorage XRayRadiationDoseSRStorage KeyObjectSelectionDocumentStorage",
    "US": "UltrasoundImageStorage UltrasoundMultiFrameImageStorage EnhancedUSVolumeStorage",
    "XA": "XRayAngiographicImageStorage EnhancedXAImageStorage XRay3DAngiographicImageStorage",
}


def guesses(sop_class_uids: Collection[str], modality: str = "") -> list[list[str]]:
    """Give the classes to propose one after the other for instances of which the remote has not listed every class.

    Parameters
    ----------
    sop_class_uids
        The classes that are known; empty ones are not.
    modality
        Of the series, if it is known: its classes come first, few enough for a context for each transfer syntax.

    Returns
    -------
    For each association classes that fit into it: the known ones, and if some are unknown those of the modality, the
    common ones, and all others.
    """
    known = sorted(set(sop_class_uids) - {""})
    if "" not in sop_class_uids:
        return [known[start : start + _MOST_CLASSES] for start in range(0, len(known), _MOST_CLASSES)]
    likely = classes_of(modality)
    first = [list(dict.fromkeys((*known, *likely)))] if likely else []
    common = list(dict.fromkeys((*known, *COMMON_STORAGE_CLASSES)))
    others = sorted({str(each) for each in sop_class._STORAGE_CLASSES.values()} - set(common))
    return [*first, common, *(others[start : start + _MOST_CLASSES] for start in range(0, len(others), _MOST_CLASSES))]
