// What is loaded after the first page has been shown: pages, and parts of pages.
export { AccessPage } from './access.tsx';
export { AuditPage } from './audit.tsx';
export { MembersPage } from './members.tsx';
export { PlanesPage } from './planes.tsx';
export { PolicyPage } from './policy.tsx';
export { RestrictDialog } from './restrict.tsx';
export { UsagePage } from './usage.tsx';
export { VersionsPanel } from './versions.tsx';
