//! The image service.

use super::service::Service;
use super::v1::image_service_server::ImageService;
use super::v1::{
    AuthConfig, FilesystemIdentifier, FilesystemUsage, Image as Listed, ImageFsInfoRequest, ImageFsInfoResponse,
    ImageSpec, ImageStatusRequest, ImageStatusResponse, Int64Value, ListImagesRequest, ListImagesResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse, StreamImagesRequest,
    StreamImagesResponse, UInt64Value,
};
use super::{Node, apart, of_image};
use sampan_runtime::container;
use sampan_runtime::image::pull::{Progress, pull};
use sampan_runtime::image::{Image, ImageError, Images, Reference};
use sampan_runtime::registry::{Credential, Credentials, Registries};
use sampan_runtime::store::files;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// An image as it is listed; those of these names are pinned.
fn listed(image: Image, pinned: &[Reference]) -> Listed {
    let config = image.config.config().as_ref();
    let user = config.and_then(|config| config.user().clone()).unwrap_or_default();
    // `uid[:gid]` or a name (OCI image specification, config.md).
    let user = user.split(':').next().unwrap_or_default().to_owned();
    let uid = user.parse().ok();
    let (tags, digests): (Vec<_>, Vec<_>) = image.names.iter().partition(|name| name.digest().is_none());
    let mut repo_digests: Vec<String> = digests.iter().map(ToString::to_string).collect();
    for name in &tags {
        let by_digest = format!("{}@{}", name.repository(), image.manifest);
        if !repo_digests.contains(&by_digest) {
            repo_digests.push(by_digest);
        }
    }
    Listed {
        id: image.id.clone(),
        repo_tags: tags.iter().map(ToString::to_string).collect(),
        repo_digests,
        size: image.size,
        uid: uid.map(|value| Int64Value { value }),
        username: if uid.is_none() { user } else { String::new() },
        spec: Some(ImageSpec { image: image.id.clone(), ..ImageSpec::default() }),
        pinned: image.names.iter().any(|name| pinned.contains(name)),
    }
}

/// The credentials of a request; those of this machine where it has none.
fn credentials(auth: Option<AuthConfig>) -> Result<Credentials, Status> {
    let Some(auth) = auth else { return Ok(Credentials::from_env()) };
    let credential = if !auth.identity_token.is_empty() {
        Credential::IdentityToken(auth.identity_token)
    } else if !auth.username.is_empty() {
        Credential::Password { user: auth.username, password: auth.password }
    } else if !auth.auth.is_empty() {
        let damaged = || Status::invalid_argument("the field `auth` of the credentials is no base64 of user:password");
        Credential::from_basic(&auth.auth).ok_or_else(damaged)?
    } else if !auth.registry_token.is_empty() {
        return Err(Status::invalid_argument(
            "a registry token cannot be used: give a user and a password, or an identity token",
        ));
    } else {
        return Ok(Credentials::from_env());
    };
    Ok(Credentials::only(credential))
}

impl Node {
    fn find_image(&self, spec: Option<ImageSpec>) -> Result<Option<Image>, Status> {
        match Images::new(&self.store).find(&spec.unwrap_or_default().image) {
            Ok(image) => Ok(Some(image)),
            Err(ImageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(of_image(error)),
        }
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image).filter(|spec| !spec.image.is_empty());
        let images = apart(&self.0, |node| {
            let found = match wanted {
                Some(wanted) => node.find_image(Some(wanted))?.into_iter().collect(),
                None => Images::new(&node.store).list().map_err(of_image)?,
            };
            Ok(found.into_iter().map(|image| listed(image, &node.options.config.pinned_images)).collect())
        });
        Ok(Response::new(ListImagesResponse { images: images.await? }))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let image = self.0.find_image(request.into_inner().image)?;
        let image = image.map(|image| listed(image, &self.0.options.config.pinned_images));
        Ok(Response::new(ImageStatusResponse { image, ..ImageStatusResponse::default() }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = request.image.unwrap_or_default().image;
        let reference: Reference =
            name.parse().map_err(|e: sampan_runtime::image::BadReference| Status::invalid_argument(e.to_string()))?;
        let registries = Registries { credentials: credentials(request.auth)?, ..Registries::from_env() };
        let pulled = apart(&self.0, move |node| {
            let silent: Arc<dyn Progress> = Arc::new(());
            pull(&node.store, &registries, &reference, None, &silent).map_err(|e| Status::unknown(e.to_string()))
        });
        let pulled = pulled.await?;
        Ok(Response::new(PullImageResponse { image_ref: pulled.image.id }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let wanted = request.into_inner().image.unwrap_or_default().image;
        let removed = apart(&self.0, move |node| {
            let images = Images::new(&node.store);
            let used = container::list(&node.store).unwrap_or_default();
            let in_use = |image: &Image| {
                used.iter()
                    .find(|c| c.record.image_id == image.id)
                    .map(|c| container::id::short(&c.record.id).to_owned())
            };
            // By its id, so that all of its names go with it.
            let id = match images.find(&wanted) {
                Ok(image) => image.id,
                Err(ImageError::NotFound { .. }) => return Ok(()),
                Err(_) => wanted,
            };
            match images.remove(&id, true, &in_use) {
                Ok(_) | Err(ImageError::NotFound { .. }) => Ok(()),
                Err(error) => Err(of_image(error)),
            }
        });
        removed.await?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Result<Response<ImageFsInfoResponse>, Status> {
        let looked = apart(&self.0, |node| {
            let store = &node.store;
            let images = Images::new(store).usage().map_or(0, |(_, total)| total);
            let containers = files::tree_size(&store.containers());
            let usage = |dir: std::path::PathBuf, bytes| FilesystemUsage {
                timestamp: super::nanos(jiff::Timestamp::now()),
                fs_id: Some(FilesystemIdentifier { mountpoint: dir.to_string_lossy().into_owned() }),
                used_bytes: Some(UInt64Value { value: bytes }),
                inodes_used: Some(UInt64Value { value: 0 }),
            };
            Ok(ImageFsInfoResponse {
                image_filesystems: vec![usage(store.root().to_owned(), images)],
                container_filesystems: vec![usage(store.root().to_owned(), containers)],
            })
        });
        Ok(Response::new(looked.await?))
    }

    type StreamImagesStream = tokio_stream::Empty<Result<StreamImagesResponse, Status>>;

    async fn stream_images(
        &self,
        _: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        Err(Status::unimplemented("images are listed, not streamed"))
    }
}
