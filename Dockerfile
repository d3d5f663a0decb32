# syntax=docker/dockerfile:1
# Images of the programs, from an archive that "make dist" has made: nothing in them but a static program. They run as user 65532,
# with a read-only root file system if you like. docs/compose.md and docs/kubernetes.md show how.
#   docker build --target=aikeysd --build-arg VERSION="$(tools/version.sh)" --tag registry.example.com/aikeysd .

FROM scratch AS archive
ARG VERSION
ARG TARGETARCH
ADD dist/aikeys-${VERSION}-linux-${TARGETARCH}.tar.gz /

FROM scratch AS aikeys-gateway
ARG VERSION
ARG TARGETARCH
COPY --from=archive /aikeys-${VERSION}-linux-${TARGETARCH}/LICENSE /aikeys-${VERSION}-linux-${TARGETARCH}/THIRD_PARTY_LICENSES /
COPY --from=archive /aikeys-${VERSION}-linux-${TARGETARCH}/bin/aikeys-gateway /usr/bin/
USER 65532:65532
EXPOSE 8090 8092
ENTRYPOINT ["/usr/bin/aikeys-gateway"]
CMD ["serve"]

FROM scratch AS secrets-svc
ARG VERSION
ARG TARGETARCH
COPY --from=archive /aikeys-${VERSION}-linux-${TARGETARCH}/LICENSE /aikeys-${VERSION}-linux-${TARGETARCH}/THIRD_PARTY_LICENSES /
COPY --from=archive /aikeys-${VERSION}-linux-${TARGETARCH}/bin/secrets-svc /usr/bin/
USER 65532:65532
EXPOSE 8443 8083
ENTRYPOINT ["/usr/bin/secrets-svc"]
CMD ["serve"]

FROM scratch AS aikeysd
ARG VERSION
ARG TARGETARCH
COPY --from=archive /aikeys-${VERSION}-linux-${TARGETARCH}/LICENSE /aikeys-${VERSION}-linux-${TARGETARCH}/THIRD_PARTY_LICENSES /
COPY --from=archive /aikeys-${VERSION}-linux-${TARGETARCH}/bin/aikeysd /usr/bin/
USER 65532:65532
EXPOSE 8080 8081 8082
ENTRYPOINT ["/usr/bin/aikeysd"]
CMD ["serve"]
