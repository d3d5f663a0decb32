// The pages that are loaded after the first one has been shown.
export { AccessPage } from './access.tsx';
export { AuditPage } from './audit.tsx';
export { MembersPage } from './members.tsx';
export { PlanesPage } from './planes.tsx';
export { PolicyPage } from './policy.tsx';
export { UsagePage } from './usage.tsx';
