"""The wire server's documents, as XML. The agent looks elements up by their names anywhere, so
nothing stands in them that it does not read.

Source: WALinuxAgent, common/protocol/goal_state.py, wire.py (VersionInfo, ExtensionManifest),
extensions_goal_state_from_extensions_config.py.
"""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from quiesce.agent.waagent.goal import Dossier, Plugin
from quiesce.agent.waagent.settings import HANDLER

PROTOCOL_VERSION = "2012-11-30"
_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>\n'

VERSIONS = (
    f"{_DECLARATION}<Versions><Preferred><Version>{PROTOCOL_VERSION}</Version></Preferred>"
    f"<Supported><Version>{PROTOCOL_VERSION}</Version></Supported></Versions>"
)


def goal_state(vm: str, dossier: Dossier, base: str) -> str:
    """`base` is the wire server's address as this agent knows it, `http://host[:port]`."""
    number = dossier.goal.incarnation
    folder = f"{base}/machine/{dossier.container_id}/{number}"
    certificates = (
        f"<Certificates>{escape(folder)}/certificates</Certificates>" if dossier.identity else ""
    )
    return (
        f"{_DECLARATION}<GoalState><Version>{PROTOCOL_VERSION}</Version>"
        f"<Incarnation>{number}</Incarnation><Machine><ExpectedState>Started</ExpectedState>"
        "</Machine><Container>"
        f"<ContainerId>{dossier.container_id}</ContainerId><RoleInstanceList><RoleInstance>"
        f"<InstanceId>{escape(_plain(vm))}</InstanceId><State>Started</State><Configuration>"
        f"<HostingEnvironmentConfig>{escape(folder)}/hostingEnvironmentConfig"
        "</HostingEnvironmentConfig>"
        f"<SharedConfig>{escape(folder)}/sharedConfig</SharedConfig>"
        f"<ExtensionsConfig>{escape(folder)}/extensionsConfig</ExtensionsConfig>{certificates}"
        f"<ConfigName>{dossier.container_id}.{number}.xml</ConfigName>"
        "</Configuration></RoleInstance></RoleInstanceList></Container></GoalState>"
    )


def hosting_environment(vm: str, dossier: Dossier) -> str:
    name = quoteattr(_plain(vm))
    return (
        f'{_DECLARATION}<HostingEnvironmentConfig version="1.0.0.0" goalStateIncarnation='
        f'"{dossier.goal.incarnation}"><Incarnation number="1" instance={name} guid="'
        f'{dossier.container_id}"/><Deployment name="quiesce" guid="{dossier.container_id}"/>'
        f'<Role name={name} guid="{dossier.container_id}"/></HostingEnvironmentConfig>'
    )


def shared_config(vm: str, dossier: Dossier) -> str:
    name = quoteattr(_plain(vm))
    return (
        f'{_DECLARATION}<SharedConfig version="1.0.0.0"><Deployment name="quiesce"/>'
        f"<Instances><Instance id={name}/></Instances></SharedConfig>"
    )


def certificates(dossier: Dossier, parcel: str) -> str:
    return (
        f"{_DECLARATION}<CertificateFile><Version>{PROTOCOL_VERSION}</Version>"
        f"<Incarnation>{dossier.goal.incarnation}</Incarnation>"
        f"<Format>Pkcs7BlobWithPfxContents</Format><Data>{parcel}</Data></CertificateFile>"
    )


def extensions_config(dossier: Dossier, base: str) -> str:
    goal = dossier.goal
    plugins = settings = ""
    if goal.plugin is not Plugin.ABSENT:
        name, version = quoteattr(HANDLER), quoteattr(goal.version)
        location = quoteattr(f"{base}{manifest_path(dossier)}")
        plugins = (
            f"<Plugin name={name} version={version} location={location} failoverlocation="
            f'{location} state="{goal.plugin}" autoUpgrade="false" runAsStartupTask="false" '
            'isJson="true" useExactVersion="true"/>'
        )
        if goal.plugin is Plugin.ENABLED:
            settings = (
                f'<Plugin name={name} version={version}><RuntimeSettings seqNo="{goal.sequence}">'
                f"{escape(goal.settings)}</RuntimeSettings></Plugin>"
            )
    return (
        f'{_DECLARATION}<Extensions version="1.0.0.0" goalStateIncarnation="{goal.incarnation}">'
        "<GuestAgentExtension><GAFamilies/></GuestAgentExtension>"
        f"<Plugins>{plugins}</Plugins><PluginSettings>{settings}</PluginSettings>"
        f'<StatusUploadBlob statusBlobType="BlockBlob">{escape(goal.status_url)}'
        "</StatusUploadBlob></Extensions>"
    )


def manifest(dossier: Dossier, offered_version: str, base: str) -> str:
    """Versions of the extension. One that was published before a newer package came is listed
    too, or an agent that has it installed would take it for withdrawn."""
    versions = {offered_version, dossier.goal.version} - {""}
    plugins = "".join(
        f"<Plugin><Version>{escape(version)}</Version><Uris><Uri>"
        f"{escape(base + package_path(dossier, version))}</Uri></Uris></Plugin>"
        for version in sorted(versions)
    )
    return (
        f"{_DECLARATION}<PluginVersionManifest><Plugins>{plugins}</Plugins>"
        "<InternalPlugins/></PluginVersionManifest>"
    )


def manifest_path(dossier: Dossier) -> str:
    return f"/packages/{dossier.token}/manifest.xml"


def package_path(dossier: Dossier, version: str) -> str:
    return f"/packages/{dossier.token}/{version}.zip"


def _plain(text: str) -> str:
    """XML 1.0 has no place for control characters."""
    return "".join(char if char.isprintable() else "?" for char in text)
