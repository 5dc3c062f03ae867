# The CPU program: docker build -t ellm-gpu . && docker run --rm -it -v "$PWD/models:/models" ellm-gpu run /models/model.ellm
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN make build VERSION="$VERSION"

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /src/bin/ellm-gpu /usr/local/bin/ellm-gpu
COPY LICENSE THIRD_PARTY_NOTICES /usr/share/doc/ellm-gpu/
USER nonroot
WORKDIR /models
ENTRYPOINT ["ellm-gpu"]
